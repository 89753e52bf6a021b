"""P2's tables 1 and 2: the joint VAE and latent EBM beside a VAE on the same networks, on CIFAR-10, at equal updates and at equal time.

    python experiments/p2_table1.py data=CIFAR10 out=runs/claims                 # all of it; the same command goes on
    python experiments/p2_table1.py data=CIFAR10 systems=latent_ebm,vae seeds=0  # parts of it
    python experiments/p2_table1.py data=CIFAR10 images=100000 precision=bf16    # shorter, on a CPU with fast bf16
    python experiments/p2_table1.py show                                         # into docs/records/claims.md
    python experiments/p2_table1.py scale=gpu                                    # the paper's own size, as commands

The latent EBM trains by experiment=p2_cifar10, the published networks, losses and Adam; `plus` is the paper's "(+)", its inference model by
equation 17; the VAE is on its G and I and for twice as many images (experiments/beside.py: what is measured when). The paper's other
baselines are not built on these networks.
"""

import sys

from beside import Table

NAME = "p2_table1"
TABLE = Table(
    name=NAME,
    title="### P2, tables 1 and 2: samples and reconstructions beside a VAE",
    experiment="p2_cifar10",
    pictures="CIFAR-10",
    data="cifar10",
    systems={
        "latent_ebm": ["objective=p2"],
        "plus": ["objective=p2", "objective.inference_loss=eq17"],
        "vae": ["objective=vae_published"],
    },
    paper={"latent_ebm": (30.1, 0.0313), "plus": (33.3, 0.0339), "vae": (109.5, 0.0369)},  # rmse .177, .184, .192
    columns=("paper, FID", "paper, mse"),
    scales={"cpu": (0.25, 100_000), "gpu": (1.0, 40_000_000)},
    batch=100,
    lengths={"vae": 2},
)
main = TABLE.main

if __name__ == "__main__":
    main(*sys.argv[1:])
