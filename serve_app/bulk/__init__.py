"""A pipeline over everything that is stored: listed in chunks, run on Ray Data, resumable."""
