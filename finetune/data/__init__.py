"""From files to examples: formats, splits, near-duplicates, prompt variants."""
