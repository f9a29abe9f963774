"""The SDK's client side."""
