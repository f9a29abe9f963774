"""Generated from protos/penstock/v1 by `make proto`: do not edit."""
