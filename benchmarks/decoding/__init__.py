"""What decoding at a reduced size saves, and what it does to detections."""
