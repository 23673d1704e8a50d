"""The bundles of this node: signature checks (`verify`), the newest version of each domain
(`versions`), the sealed copy on disk (`replica`) and reading that copy at the start (`loading`).

This room knows no network and no nginx. An older revision is refused in
`versions.BundleVersions.accept_newer`.
"""
