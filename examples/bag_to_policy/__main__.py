"""Run the whole way: ``python -m bag_to_policy``, as ``make demo`` does."""

if __name__ == "__main__":
    # Worker processes import this file too, and are not to wait for torch.
    from bag_to_policy.cli import main

    main()
