"""The SDK's server side."""
