"""Judge finished runs: rules, comparisons, and accuracy on images without labels."""
