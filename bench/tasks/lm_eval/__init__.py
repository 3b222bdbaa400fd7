"""Tasks of lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness), read from
their YAML files and from data on this machine: prompts, choices and scores are those of its release
0.4.13."""
