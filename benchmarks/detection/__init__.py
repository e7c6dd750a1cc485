"""How well batches are predicted, and how soon and how surely slowness is found among them."""
