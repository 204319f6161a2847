"""The games by name. A row is "module:Class"; any other importable "module:Class" may stand in a recipe as well."""

GAMES: dict[str, str] = {
    "simultaneous": "gansmith.games.two_player:Simultaneous",
    "alternating": "gansmith.games.two_player:Alternating",
    "began": "gansmith.games.began:Began",
    "ebgan": "gansmith.games.ebgan:EBGAN",
    "infogan": "gansmith.games.infogan:InfoGAN",
    "cgan": "gansmith.games.cgan:ConditionalGAN",
    "acgan": "gansmith.games.acgan:AuxiliaryClassifierGAN",
    "sgan": "gansmith.games.sgan:SemiSupervisedGAN",
    "cluster_gan": "gansmith.games.cluster_gan:ClusterGAN",
    "aae": "gansmith.games.aae:AdversarialAutoencoder",
    "pix2pix": "gansmith.games.pix2pix:Pix2Pix",
    "bicyclegan": "gansmith.games.bicyclegan:BicycleGAN",
    "cyclegan": "gansmith.games.cyclegan:CycleGAN",
    "dualgan": "gansmith.games.dualgan:DualGAN",
    "cogan": "gansmith.games.cogan:CoupledGAN",
    "unit": "gansmith.games.unit:UNIT",
    "munit": "gansmith.games.munit:MUNIT",
    "pixelda": "gansmith.games.pixelda:PixelDA",
    "stargan": "gansmith.games.stargan:StarGAN",
}
