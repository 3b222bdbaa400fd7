"""OpenAI's batch API on this machine: a file of requests in, a file of answers out.

files.py keeps files, lines.py reads their requests, store.py keeps batches and the lines that are
done, runner.py works through them, inner.py asks the application, routes.py has the paths.
Everything is in one directory; after a kill, work goes on with the lines that are not done.
https://platform.openai.com/docs/api-reference/batch
"""
