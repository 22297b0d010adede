"""Two algorithm files, read side by side."""
