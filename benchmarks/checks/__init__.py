"""What the checks of incoming images cost; see README.md."""
