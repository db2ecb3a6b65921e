"""What serving costs on top of the models alone."""
