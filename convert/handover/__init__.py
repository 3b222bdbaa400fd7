"""A conversion in other hands: a repository on a hub, Ollama, LM Studio.

files.py says what is handed over and proves that it is what run.json describes; hub.py uploads it;
local.py puts it where the programs on this machine look.
"""
