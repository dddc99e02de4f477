"""How well a pruned network recovers: method by method, on real digits."""
