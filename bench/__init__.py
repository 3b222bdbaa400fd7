"""Tuned against base on held-out prompts: accuracy, perplexity, speed, with error bars.

    from tuneserve.bench.stage import run_bench
    report = run_bench(run, recipe)    # a compare.results.Report; writes runs/NAME/bench/

stage      the benchmark of a run, from its GGUFs to the report
job        what will be measured, checked before anything slow starts
conditions base and tuned have the same template, token ids and tensor types
tasks/     what the models are asked, and how an answer is scored
measure/   one model over prompts and texts, the server under clients, an endpoint, a sweep over
           quantizations; the journal keeps what was measured if the process is killed
stats/     bootstrap, intervals, significance tests, gaps between groups
compare/   from measurements to comparisons and verdicts; several runs side by side
report/    report.json and the pages
result     what run.json keeps of a report
"""
