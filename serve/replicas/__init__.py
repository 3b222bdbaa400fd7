"""Several servers of one model behind one port: `tuneserve serve --replicas N`.

Reading order: supervisor.py (start, watch, stop), process.py (one replica), replica.py (what runs
in it), shares.py (GPUs and threads of each), haproxy.py (the proxy), configuration.py with
haproxy.cfg.j2 (its rules, here and in deploy/haproxy.cfg).
"""
