"""The columns of a row, each in a few words."""

from __future__ import annotations

COLUMNS = {
    "rollout": "where the responses come from",
    "filter": "which prompts are replaced by others",
    "exploration": "how the policy acts while it is trained",
    "target": "what the critics learn",
    "pathwise": "how the policy follows the gradient of Q",
    "temperature": "the weight of entropy",
    "shaping": "what is added to the reward",
    "spread": "how a reward is spread over tokens",
    "returns": "the return of each token",
    "baseline": "what the return is compared with",
    "normalisation": "what the advantage is divided by",
    "select": "which responses are imitated",
    "ratio": "how new and old policy are compared",
    "bound": "how the surrogate loss bounds the ratio",
    "mask": "which tokens are left out of the loss",
    "correction": "how samples of an older policy are weighed",
    "preference": "how responses to a prompt are compared",
    "kl": "what holds the policy near the reference",
    "controller": "how the KL coefficient is adapted",
    "aggregation": "how token losses become one number",
    "update": "how the weights are updated",
    "roles": "which models take part",
    "extra_losses": "what else is added to the loss",
    "coordination": "when sampling and training take turns",
}
COLUMNS_IN_CONTROL = {
    "rollout": "where the steps come from",
    "returns": "the return of each step",
    "spread": "how a reward is spread over steps",
    "aggregation": "how the losses of steps become one number",
    "coordination": "when acting and training take turns",
}

# The parts of a step, for the bars that show where the time went.
