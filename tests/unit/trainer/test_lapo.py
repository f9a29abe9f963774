"""LAPO against a calculation written from its equations, weight by weight."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from penstock_trainer.algorithm import NetworkSpec
from penstock_trainer.encoders import EncoderSpec
from penstock_trainer.lapo import Lapo, LapoOptions

CPU = torch.device("cpu")
OPTIONS = LapoOptions(
    variant="lapo-v1",
    discount=0.9,
    expectile=0.8,
    kl_beta=0.7,
    tau=0.1,
    doubleq_min=0.75,
    lr=1e-3,
    value_min=-0.05,
    value_max=0.05,
)
STATES_ONLY = NetworkSpec(
    EncoderSpec("none", (), 0, 0, joint_dim=3), action_dim=2, zmax=1.5, hidden=(7, 5)
)


class Reference:
    """The equations of the module's docstring on plain weights, with Adam written out."""

    def __init__(self, learner: Lapo) -> None:
        self.on = {k: v.clone() for k, v in learner.online.state_dict().items()}
        self.tg = {k: v.clone() for k, v in learner.target.state_dict().items()}
        self.o, self.zmax = learner.options, learner.spec.zmax
        self.noise = torch.Generator()
        self.noise.set_state(learner.generator.get_state())
        self.moments = {k: (torch.zeros_like(v), torch.zeros_like(v)) for k, v in self.on.items()}
        self.time = 0

    @staticmethod
    def net(w: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
        for layer in (0, 2):
            x = (x @ w[f"{name}.{layer}.weight"].T + w[f"{name}.{layer}.bias"]).clip(min=0)
        return x @ w[f"{name}.4.weight"].T + w[f"{name}.4.bias"]

    def pi(self, w, s):
        return self.zmax * torch.tanh(self.net(w, "actor.body", s))

    def dec(self, w, s, z):
        return self.net(w, "vae.decoder", torch.hstack([s, z]))

    def mix_q_target(self, s, z):
        sa = torch.hstack([s, self.dec(self.tg, s, z)])
        q = torch.hstack([self.net(self.tg, "critic.q1", sa), self.net(self.tg, "critic.q2", sa)])
        d = self.o.doubleq_min
        return d * q.amin(1, keepdim=True) + (1 - d) * q.amax(1, keepdim=True)

    def descend(self, loss, part: str) -> None:
        names = [k for k in self.on if k.startswith(part)]
        grads = torch.autograd.grad(loss, [self.on[k] for k in names])
        with torch.no_grad():
            for name, g in zip(names, grads, strict=True):
                m, v = self.moments[name]
                m.copy_(0.9 * m + 0.1 * g)
                v.copy_(0.999 * v + 0.001 * g * g)
                bias_m, bias_v = 1 - 0.9**self.time, 1 - 0.999**self.time
                self.on[name] = self.on[name] - self.o.lr * (m / bias_m) / (
                    (v / bias_v).sqrt() + 1e-8
                )

    def step(self, b) -> dict[str, float]:
        self.time += 1
        for name in self.on:
            self.on[name] = self.on[name].detach().requires_grad_()
        s, s2, a, r, o = b.joint, b.next_joint, b.action, b.reward, self.o
        with torch.no_grad():
            y_q = r + b.going_on * o.discount * self.net(self.on, "critic.v", s2)
            eps = torch.randn(len(s), 4, generator=self.noise)
            free = self.mix_q_target(s, self.pi(self.tg, s) + (0.1 * eps).clip(-0.2, 0.2))
            y_v = free.clip(o.value_min, o.value_max)
        sa = torch.hstack([s, a])
        losses = [
            (self.net(self.on, f"critic.{head}", x) - y).pow(2).mean()
            for head, x, y in (("q1", sa, y_q), ("q2", sa, y_q), ("v", s, y_v))
        ]
        v_before = self.net(self.on, "critic.v", s).detach()
        self.descend(sum(losses), "critic")
        with torch.no_grad():
            v = self.net(self.on, "critic.v", s) if o.variant == "lapo-v1" else v_before
            adv = r + b.going_on * o.discount * self.mix_q_target(s2, self.pi(self.tg, s2)) - v
            weight = torch.full_like(adv, 1 - o.expectile)
            weight[adv > 0] = o.expectile
        mu, log_var = self.net(self.on, "vae.encoder", sa).chunk(2, 1)
        z = mu + (0.5 * log_var).exp() * torch.randn(len(s), 4, generator=self.noise)
        kl = 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum(1, keepdim=True)
        error = ((self.dec(self.on, s, z) - a) ** 2).sum(1, keepdim=True)
        vae_loss = (weight * (error + o.kl_beta * kl)).mean()
        self.descend(vae_loss, "vae")
        act = self.dec(self.tg, s, self.pi(self.on, s))
        actor_loss = -self.net(self.on, "critic.q1", torch.hstack([s, act])).mean()
        self.descend(actor_loss, "actor")
        for name, fast in self.on.items():
            self.tg[name] = (1 - o.tau) * self.tg[name] + o.tau * fast.detach()
        return {
            "critic_loss": sum(losses).item(),
            "vae_loss": vae_loss.item(),
            "actor_loss": actor_loss.item(),
            "advantage_share": float((adv > 0).float().mean()),
            "v_clamped_share": float((free != y_v).float().mean()),
        }


@pytest.mark.parametrize("variant", ["lapo", "lapo-v1"])
def test_three_steps_equal_the_equations(variant, transitions):
    learner = Lapo(STATES_ONLY, replace(OPTIONS, variant=variant), 3, CPU)
    reference = Reference(learner)
    shares = []
    for seed in range(3):
        batch = transitions(9, seed)
        metrics = learner.update(batch)
        expected = reference.step(batch)
        for name, value in expected.items():
            assert float(metrics[name]) == pytest.approx(value, abs=1e-6), name
        shares.append((expected["advantage_share"], expected["v_clamped_share"]))
    # the case is one in which weights and clamp matter
    assert all(0 < advantage < 1 and clamped > 0 for advantage, clamped in shares)
    for module, weights in ((learner.online, reference.on), (learner.target, reference.tg)):
        for name, value in module.state_dict().items():
            torch.testing.assert_close(value, weights[name].detach(), rtol=1e-5, atol=1e-6)


def test_variants_differ_in_which_v_gives_the_advantage(transitions):
    learners = [
        Lapo(STATES_ONLY, replace(OPTIONS, variant=v, lr=0.1), 3, CPU) for v in ("lapo", "lapo-v1")
    ]
    shares = []
    for learner in learners:
        learner.update(transitions(64))
        shares.append(float(learner.update(transitions(64, 1))["advantage_share"]))
    assert shares[0] != shares[1]


@pytest.mark.parametrize(("variant", "reaches"), [("lapo", True), ("lapo-v1", False)])
def test_autoencoder_trains_the_image_encoder_only_in_our_variant(
    variant, reaches, transitions, encoder_spec
):
    encoders = []
    for kl_beta in (0.0, 5.0):  # changes the autoencoder's loss and nothing else
        options = replace(OPTIONS, variant=variant, kl_beta=kl_beta)
        learner = Lapo(NetworkSpec(encoder_spec, 2, hidden=(7,)), options, 3, CPU)
        learner.update(transitions(6))
        encoders.append(learner.online.encoder.state_dict())
    differs = any(not torch.equal(encoders[0][k], encoders[1][k]) for k in encoders[0])
    assert differs is reaches


def test_actor_step_leaves_critic_decoder_and_encoder_without_its_gradient(
    transitions, encoder_spec
):
    learner = Lapo(NetworkSpec(encoder_spec, 2, hidden=(7,)), OPTIONS, 3, CPU)
    state = torch.randn(4, encoder_spec.output_dim)
    learner._actor_step(state)
    rest = [learner.online.critic, learner.online.vae, learner.online.encoder, learner.target]
    assert all(p.grad is None for module in rest for p in module.parameters())
    assert all(p.grad is not None for p in learner.online.actor.parameters())


def test_same_seed_gives_the_same_learner_whatever_the_process_drew_before(transitions):
    first = Lapo(STATES_ONLY, OPTIONS, 5, CPU)
    torch.manual_seed(999)
    torch.randn(10)
    second = Lapo(STATES_ONLY, OPTIONS, 5, CPU)
    before = torch.get_rng_state()
    first.update(transitions(4))
    second.update(transitions(4))
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.online.state_dict().items():
        assert torch.equal(value, second.online.state_dict()[name]), name
