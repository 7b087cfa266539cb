"""The run folder: its files and records, claims of workers, fingerprints, and scores."""
