"""A finished study as tables, pages, figures and data: one document, one writer per format."""
