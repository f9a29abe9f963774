"""Which encoding is fastest to where the rollouts go: measured, predicted, explained.

advisor    asks again now and then, and watches what really happens
advice     what is recommended, and why
plans      the decision: plans, predictions, when to change; arithmetic alone
costs      what encoding and decoding take, on a sample of a real rollout
link       how fast the way to the target is
place      whether there is a way at all: same process, same host, network
"""

from penstock.rollouts.advising.advice import Advice
from penstock.rollouts.advising.advisor import Advisor, advise

__all__ = ["Advice", "Advisor", "advise"]
