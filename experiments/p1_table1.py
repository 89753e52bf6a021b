"""P1's tables 1 and 2: the triangle beside a GAN, a WGAN and a VAE on the same networks, at equal updates and at equal time.

    python experiments/p1_table1.py data=CELEBA out=runs/claims                  # all of it; the same command goes on
    python experiments/p1_table1.py data=CELEBA systems=gan,wgan seeds=0         # parts of it
    python experiments/p1_table1.py data=CELEBA images=120000 precision=bf16     # shorter, on a CPU with fast bf16
    python experiments/p1_table1.py show                                         # into docs/records/claims.md
    python experiments/p1_table1.py scale=gpu                                    # the paper's own size, as commands

The triangle trains by experiment=triangle_cifar10, the published networks and recipe; the VAE on its G and I, all but the WGAN by its Adam;
the GAN on its G and energy, this with batch norm as DCGAN's, at DCGAN's rates; the WGAN on both by WGAN-GP's published settings, a step of
G every fifth round. GAN and VAE train for twice as many images, the WGAN for five times (experiments/beside.py: what is measured when). The
paper's other baselines are not built here.
"""

import sys

from beside import Table

NAME = "p1_table1"
TABLE = Table(
    name=NAME,
    title="### P1, tables 1 and 2: samples and reconstructions beside a GAN, a WGAN and a VAE",
    experiment="triangle_cifar10",
    pictures="pictures",
    data="faces",
    systems={
        "triangle": ["objective=published"],
        "gan": ["objective=gan_published", "schedule.levels.32.lr=2e-4", "schedule.energy_lr=1"],
        "wgan": [
            *("objective=wgan_published", "schedule.levels.32.lr=1e-4", "schedule.energy_lr=1", "schedule.decay_factor=1"),
            *("optimizer.beta1=0", "optimizer.beta2=0.9", "optimizer.weight_decay.generator=0"),
        ],
        "vae": ["objective=vae_published"],
    },
    paper={"triangle": (31.92, 0.030), "gan": (38.39, None), "wgan": (36.36, None), "vae": (99.09, 0.039)},
    columns=("paper, FID, CelebA 64", "paper, mse"),
    scales={"cpu": (0.25, 50_000), "gpu": (1.0, 75_000_000)},
    batch=100,
    lengths={"gan": 2, "wgan": 5, "vae": 2},
    rounds={"wgan": 5},
    blind=("gan", "wgan"),
)
main = TABLE.main

if __name__ == "__main__":
    main(*sys.argv[1:])
