"""Whether batches fill without waiting."""
