"""Tuned against base on held-out prompts: accuracy, perplexity, speed, with error bars.

from tuneserve.bench.stage import run_bench
report = run_bench(run, recipe)        # a results.Report; writes runs/NAME/bench/

compare        the benchmark of a run, from its GGUFs to the report
job            what will be measured, checked before anything slow starts
tasks, general, examples                                   what the models are asked
measure        one model over prompts and texts; journal: what is measured survives a kill
prompts, likelihood, perplexity, speed                    what llama.cpp is asked
clients        the real server under 1 to N clients
ladder         the tuned model at every quantization
scoring, answers                                           from texts to scores
bootstrap, intervals, significance, gaps                   from scores to what may be said
analysis, forgetting, contamination                        the comparisons and the verdicts
assemble, results, provenance, pages, charts, figures, templates/            the report
report_file    the report as report.json, and back; result: what run.json keeps of it
endpoint       another contender, behind an OpenAI-compatible API
runs           several runs side by side
"""
