"""``python3 -m privsep.cli``, and what the launcher ``privsep`` runs."""

from privsep.cli.main import main

if __name__ == "__main__":
    main()
