"""One site: its rows, its training, its promise."""
