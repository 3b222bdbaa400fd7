"""From scores to comparisons and verdicts: tuned against base, run against run."""
