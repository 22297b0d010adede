"""From rows to proof: exports, published values, statistics, curves, tables, pages."""
