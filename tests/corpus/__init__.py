"""Small good files of every kind that is read, from which fuzzed ones are made."""
