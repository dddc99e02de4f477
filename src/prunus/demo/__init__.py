"""The main job: a LeNet goes from trained to small, proven, retrained, saved, exported and measured."""
