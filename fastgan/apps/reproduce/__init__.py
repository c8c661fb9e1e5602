"""The papers' tables as commands: train at the published settings, and set fastgan's row beside the paper's."""
