"""The importance matrix: how much each column of a weight matters, measured on real texts.

For every weight that llama.cpp multiplies with, the squares of what comes in are summed column by
column; quantization then spends its precision where the sums are large.

    matrix      the sums, written in llama.cpp's imatrix GGUF format
    collector   sums what llama.cpp shows its evaluation callback
    texts       the user's training examples as the token chunks to measure on
"""

from tuneserve.convert.imatrix.collector import collect
from tuneserve.convert.imatrix.matrix import Importance, ImportanceMatrix
from tuneserve.convert.imatrix.texts import chunks_of, training_chunks

__all__ = ["Importance", "ImportanceMatrix", "chunks_of", "collect", "training_chunks"]
