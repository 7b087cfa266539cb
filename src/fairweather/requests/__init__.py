"""What is asked for: a study, an evaluation, or runs to be joined as seeds."""
