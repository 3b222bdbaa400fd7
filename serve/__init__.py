"""An OpenAI-compatible server on llama-cpp-python.

Reading order: server.py (what the command does), api/ (routes, protocol, streaming), chat/
(structured answers, tool calls), engine/ (scheduler, KV cache, sampling). Beside them: offload.py
(layers on the GPU), terminal_chat.py and self_distillation.py (the base's own answers).
"""
