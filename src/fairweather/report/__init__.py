"""Reports of finished runs: sentences, tables, figures and one HTML page."""
