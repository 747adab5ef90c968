"""Small networks, each written once and built in Flax linen and in Flax NNX."""
