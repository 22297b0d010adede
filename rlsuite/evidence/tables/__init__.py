"""Tables of a benchmark, in Markdown, LaTeX and CSV."""
