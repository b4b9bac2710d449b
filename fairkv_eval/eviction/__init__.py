"""From scores to kept positions: policies, presses, budgets, quotas."""
