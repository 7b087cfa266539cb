"""Files that are downloaded, cached, read and written, whatever is in them."""
