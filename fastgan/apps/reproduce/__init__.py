"""The papers' tables as commands: train at the published settings, and set our row beside the paper's."""
