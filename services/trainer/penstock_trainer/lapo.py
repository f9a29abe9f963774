"""LAPO: latent-variable advantage-weighted policy optimisation (Chen et al., NeurIPS 2022).

A variational autoencoder learns the actions of the data, those with a positive advantage far more
than the others; a deterministic policy then moves in its latent space to where the critic is
highest, and so stays among actions that were seen. In step order, for a batch (s, a, r, s', done)
and ``mix(a, b) = doubleq_min * min(a, b) + (1 - doubleq_min) * max(a, b)``:

    1  yQ = r + (1 - done) * discount * V(s')
    2  yV = clamp(mix Q_target(s, dec_target(s, actor_target(s) + noise)), possible returns)
    3  critic step:  MSE(Q1, yQ) + MSE(Q2, yQ) + MSE(V, yV)
    4  A = r + (1 - done) * discount * mix Q_target(s', dec_target(s', actor_target(s'))) - V(s)
    5  w = expectile where A > 0, else 1 - expectile
    6  autoencoder step:  mean(w * (sum_dims (reconstruction - a)^2 + kl_beta * KL))
    7  actor step:  -mean Q1(s, dec_target(s, actor(s)))
    8  targets move by tau

``lapo-v1`` follows this order to the letter: V in line 4 is computed again after line 3, and only
the critic trains the encoder. ``lapo`` encodes each observation once per step, takes V from before
line 3, and lets the autoencoder's gradient into the encoder as well: from pixels that is what
makes the difference between learning and not.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor

from penstock_trainer.algorithm import NetworkSpec, adam, seeded
from penstock_trainer.networks import LapoNetworks, update_target
from penstock_trainer.transitions import Transitions

__all__ = ["Lapo", "LapoOptions", "LapoPolicy"]

_LOG_VARIANCE_BOUND = 8.0
_NOISE_STD, _NOISE_BOUND = 0.1, 0.2


@dataclass(frozen=True)
class LapoOptions:
    """What steers LAPO beside its networks; the names are those of the settings.

    Attributes:
        variant: ``lapo`` or ``lapo-v1``, see the module.
        discount: Weight of the next step's value.
        expectile: Weight of a transition with positive advantage; the others get the rest to 1.
        kl_beta: Weight of the autoencoder's KL term.
        tau: Share that targets move per step.
        doubleq_min: Weight of the lower of two action values.
        lr: Learning rate of all three optimisers.
        value_min: Least possible return.
        value_max: Greatest possible return.
    """

    variant: Literal["lapo", "lapo-v1"] = "lapo"
    discount: float = 0.99
    expectile: float = 0.9
    kl_beta: float = 1.0
    tau: float = 0.005
    doubleq_min: float = 1.0
    lr: float = 2e-4
    value_min: float = -float("inf")
    value_max: float = float("inf")


class Lapo:
    """The learner: networks, their targets, three optimisers and a random generator of its own.

    Args:
        spec: Shapes of the networks.
        options: See :class:`LapoOptions`.
        seed: Fixes initial weights and all noise.
        device: Where everything lives.
    """

    metric_names = (
        "critic_loss",
        "vae_loss",
        "actor_loss",
        "q_mean",
        "v_mean",
        "advantage_share",
        "v_clamped_share",
    )

    def __init__(
        self, spec: NetworkSpec, options: LapoOptions, seed: int, device: torch.device
    ) -> None:
        self.spec, self.options = spec, options
        with seeded(seed):
            self.online = LapoNetworks(spec.encoder, spec.action_dim, spec.zmax, spec.hidden).to(
                device
            )
        self.target = copy.deepcopy(self.online).requires_grad_(requires_grad=False)
        self._make_optimisers()
        self.generator = torch.Generator(device).manual_seed(seed)

    def _make_optimisers(self) -> None:
        online, lr = self.online, self.options.lr
        critic = [*online.critic.parameters(), *online.encoder.parameters()]
        self.critic_optimiser = adam(critic, lr)
        self.vae_optimiser = adam(online.vae.parameters(), lr)
        self.actor_optimiser = adam(online.actor.parameters(), lr)

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """One step on ``batch``; scalars by the names of ``metric_names``, on the device."""
        if self.options.variant == "lapo":
            metrics = self._update_together(batch)
        else:
            metrics = self._update_in_turn(batch)
        update_target(self.target, self.online, self.options.tau)
        return metrics

    def _update_together(self, batch: Transitions) -> dict[str, Tensor]:
        """Lines 1 to 7 with one encoding per observation and one backward pass."""
        state = self.online.encoder(batch.images, batch.joint)
        fixed = state.detach()
        with torch.no_grad():
            next_state = self.target.encoder(batch.next_images, batch.next_joint)
        critic_loss, metrics = self._critic_loss(batch, state, next_state)
        advantage = self._advantage(batch, fixed, next_state)
        vae_loss = self._vae_loss(batch, state, advantage)
        self.critic_optimiser.zero_grad()
        self.vae_optimiser.zero_grad()
        (critic_loss + vae_loss).backward()
        self.critic_optimiser.step()
        self.vae_optimiser.step()
        return metrics | self._actor_step(fixed) | _shares(vae_loss, advantage)

    def _update_in_turn(self, batch: Transitions) -> dict[str, Tensor]:
        """Lines 1 to 7 in the published order."""
        state = self.online.encoder(batch.images, batch.joint)
        with torch.no_grad():
            next_state = self.target.encoder(batch.next_images, batch.next_joint)
        critic_loss, metrics = self._critic_loss(batch, state, next_state)
        self.critic_optimiser.zero_grad()
        critic_loss.backward()
        self.critic_optimiser.step()
        with torch.no_grad():  # the critic's step has changed the encoder
            fixed = self.online.encoder(batch.images, batch.joint)
        advantage = self._advantage(batch, fixed, next_state)
        vae_loss = self._vae_loss(batch, fixed, advantage)
        self.vae_optimiser.zero_grad()
        vae_loss.backward()
        self.vae_optimiser.step()
        return metrics | self._actor_step(fixed) | _shares(vae_loss, advantage)

    def _critic_loss(
        self, batch: Transitions, state: Tensor, next_state: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Lines 1 to 3, without the step."""
        options = self.options
        q_target = self._q_target(batch, next_state)
        with torch.no_grad():
            noise = torch.randn(
                (len(batch), self.online.vae.latent_dim),
                generator=self.generator,
                device=state.device,
            )
            noise = (noise * _NOISE_STD).clamp(-_NOISE_BOUND, _NOISE_BOUND)
            unbounded = self._policy_value(state.detach(), noise)
            v_target = unbounded.clamp(options.value_min, options.value_max)
        q1, q2 = self.online.critic.both(state, batch.action)
        v = self.online.critic.v(state)
        loss = F.mse_loss(q1, q_target) + F.mse_loss(q2, q_target) + F.mse_loss(v, v_target)
        return loss, {
            "critic_loss": loss.detach(),
            "q_mean": q1.detach().mean(),
            "v_mean": v.detach().mean(),
            "v_clamped_share": (unbounded != v_target).float().mean(),
        }

    @torch.no_grad()
    def _q_target(self, batch: Transitions, next_state: Tensor) -> Tensor:
        """Line 1, ``(B, 1)``."""
        ahead = batch.going_on * self.options.discount
        return batch.reward + ahead * self.online.critic.v(next_state)

    @torch.no_grad()
    def _advantage(self, batch: Transitions, state: Tensor, next_state: Tensor) -> Tensor:
        """Line 4, ``(B, 1)``."""
        ahead = batch.going_on * self.options.discount * self._policy_value(next_state)
        return batch.reward + ahead - self.online.critic.v(state)

    @torch.no_grad()
    def _policy_value(self, state: Tensor, noise: Tensor | None = None) -> Tensor:
        """Value of the target policy's action, ``(B, 1)``, by the target critic."""
        latent = self.target.actor(state)
        if noise is not None:
            latent = latent + noise
        action = self.target.vae.decode(state, latent)
        return self._mix(*self.target.critic.both(state, action))

    def _mix(self, first: Tensor, second: Tensor) -> Tensor:
        weight = self.options.doubleq_min
        return weight * torch.minimum(first, second) + (1 - weight) * torch.maximum(first, second)

    def _vae_loss(self, batch: Transitions, state: Tensor, advantage: Tensor) -> Tensor:
        """Lines 5 and 6, without the step."""
        options, vae = self.options, self.online.vae
        mean, log_variance = vae.encode(state, batch.action)
        if options.variant == "lapo":
            # Far outside what training visits; exp() of more would end a run in infinities.
            log_variance = log_variance.clamp(-_LOG_VARIANCE_BOUND, _LOG_VARIANCE_BOUND)
        noise = torch.randn(mean.shape, generator=self.generator, device=mean.device)
        latent = mean + torch.exp(log_variance / 2) * noise
        error = (vae.decode(state, latent) - batch.action).square().sum(1, keepdim=True)
        kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1, keepdim=True)
        weight = torch.where(advantage > 0, options.expectile, 1 - options.expectile)
        return (weight * (error + options.kl_beta * kl)).mean()

    def _actor_step(self, state: Tensor) -> dict[str, Tensor]:
        """Line 7."""
        action = self.target.vae.decode(state, self.online.actor(state))
        loss = -self.online.critic.first(state, action).mean()
        self.actor_optimiser.zero_grad()
        # Only the actor's gradients: the critic's would be computed in vain.
        loss.backward(inputs=list(self.online.actor.parameters()))
        self.actor_optimiser.step()
        return {"actor_loss": loss.detach()}

    @torch.no_grad()
    def validate(self, batch: Transitions) -> dict[str, Tensor]:
        """Per-transition measures ``(B,)`` of held-out data; changes nothing, draws nothing.

        Returns:
            ``error``, squared error of the policy's action; ``advantage``, line 4; ``td_error``,
            squared; ``policy_q`` and ``data_q``, value of the policy's and of the recorded action
            by the target critic, bounded by the possible returns.
        """
        state = self.online.encoder(batch.images, batch.joint)
        next_state = self.target.encoder(batch.next_images, batch.next_joint)
        action = self.target.vae.decode(state, self.online.actor(state))
        advantage = self._advantage(batch, state, next_state)
        q1 = self.online.critic.first(state, batch.action)
        bounds = (self.options.value_min, self.options.value_max)
        critic = self.target.critic
        return {
            "error": (action - batch.action).square().mean(1),
            "advantage": advantage[:, 0],
            "td_error": (q1 - self._q_target(batch, next_state)).square()[:, 0],
            "policy_q": self._mix(*critic.both(state, action)).clamp(*bounds)[:, 0],
            "data_q": self._mix(*critic.both(state, batch.action)).clamp(*bounds)[:, 0],
        }

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on bit for bit."""
        return {
            "online": self.online.state_dict(),
            "target": self.target.state_dict(),
            "critic_optimiser": self.critic_optimiser.state_dict(),
            "vae_optimiser": self.vae_optimiser.state_dict(),
            "actor_optimiser": self.actor_optimiser.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.online.load_state_dict(state["online"])
        self.target.load_state_dict(state["target"])
        self.critic_optimiser.load_state_dict(state["critic_optimiser"])
        self.vae_optimiser.load_state_dict(state["vae_optimiser"])
        self.actor_optimiser.load_state_dict(state["actor_optimiser"])
        self.generator.set_state(state["generator"].cpu())

    def set_learning_rate(self, lr: float) -> None:
        """Go on with another learning rate than the loaded optimisers had."""
        for optimiser in (self.critic_optimiser, self.vae_optimiser, self.actor_optimiser):
            for group in optimiser.param_groups:
                group["lr"] = lr


class LapoPolicy:
    """The acting part of LAPO: ``dec_target(s, actor(s))``."""

    def __init__(self, spec: NetworkSpec, state: dict[str, Any], device: torch.device) -> None:
        self.online = LapoNetworks(spec.encoder, spec.action_dim, spec.zmax, spec.hidden)
        self.online.load_state_dict(state["online"])
        self.decoder = copy.deepcopy(self.online.vae)
        prefix = "vae."
        self.decoder.load_state_dict(
            {
                name.removeprefix(prefix): value
                for name, value in state["target"].items()
                if name.startswith(prefix)
            }
        )
        self.online.to(device).eval()
        self.decoder.to(device).eval()

    @torch.no_grad()
    def act(self, images: Tensor, joint: Tensor) -> Tensor:
        """Normalised action ``(B, A)`` for images ``(B, C, H, W, 3)`` and z-scored joints."""
        state = self.online.encoder(images, joint)
        return self.decoder.decode(state, self.online.actor(state))


def _shares(vae_loss: Tensor, advantage: Tensor) -> dict[str, Tensor]:
    return {
        "vae_loss": vae_loss.detach(),
        "advantage_share": (advantage > 0).float().mean(),
    }
