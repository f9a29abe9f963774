"""Run the example: ``python -m navigation_ppo run``, or its parts on machines of their own."""

if __name__ == "__main__":
    from navigation_ppo.cli import main

    main()
