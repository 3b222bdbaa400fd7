"""GGUF, the file format of llama.cpp: reading it, and what stands in it.

reader.py reads metadata and tensors; architectures/ says what the tensors of an architecture are
called on both sides and how they are laid out; tokens.py, sentencepiece.py and pretokenizers.py
know llama.cpp's vocabularies.
"""
