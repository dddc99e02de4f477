"""Accuracy against sparsity, on digits and on a pretrained pitch estimator: python -m benchmarks.sparsity"""
