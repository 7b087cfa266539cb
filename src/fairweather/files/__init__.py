"""Files: downloading, caching, reading and writing them, whatever they contain."""
