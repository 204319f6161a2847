"""The networks by name. A row is "module:Class"; any other importable "module:Class" may stand in a recipe as well."""

NETWORKS: dict[str, str] = {
    "mlp_generator": "gansmith.networks.mlp:Generator",
    "mlp_discriminator": "gansmith.networks.mlp:Discriminator",
    "began_generator": "gansmith.networks.began:Generator",
    "began_autoencoder": "gansmith.networks.began:Autoencoder",
    "infogan_generator": "gansmith.networks.infogan:Generator",
    "infogan_discriminator": "gansmith.networks.infogan:Discriminator",
    "conv_discriminator": "gansmith.networks.conv:Discriminator",
    "line_generator": "gansmith.networks.line:Generator",
    "gan2014_generator": "gansmith.networks.gan2014:Generator",
    "gan2014_fronted_generator": "gansmith.networks.gan2014:FrontedGenerator",
    "gan2014_conv_generator": "gansmith.networks.gan2014:ConvGenerator",
    "gan2014_discriminator": "gansmith.networks.gan2014:Discriminator",
    "gan2014_conv_discriminator": "gansmith.networks.gan2014:ConvDiscriminator",
}
