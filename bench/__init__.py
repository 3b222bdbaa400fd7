"""Tuned against base on held-out prompts: accuracy, perplexity, speed, with error bars.

from bench.compare import run_bench
report = run_bench(run, recipe)        # what report.json holds; writes runs/NAME/bench/

compare        the benchmark of a run, from its GGUFs to the report
measure        one model over the prompts; journal: what is measured survives a kill
prompts, likelihood, perplexity, logits, decode, speed     what llama.cpp is asked
scoring, graded, answers                                   from texts to scores
statistics, analysis, contamination, simulation            from scores to what may be said
results, pages, plot, templates/                           the report
endpoint       another contender, behind an OpenAI-compatible API
runs           several runs side by side
"""
