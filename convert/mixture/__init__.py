"""Which type each tensor gets so that answers change least at a given size (`auto`).

answers     the user's examples as token ids, and where their answers are
trial       a GGUF that runs while its tensors are rounded and put back: what rounding costs
groups      tensors that are tried together
roundings   how far each type rounds a tensor, and what it keeps of the tune
estimates   what each type of each tensor costs, from what was measured
knapsack    the types that cost least within a size
choose      all of it
"""

from tuneserve.convert.mixture.choose import check_limit, choose_mix

__all__ = ["check_limit", "choose_mix"]
