"""Stores over the network, one file each.

A file gives ``STORE``, an object of a class derived from
:class:`~penstock.storage.remote.RemoteStore` that declares its schemes of URIs. It must not
import the client of the store, since every file here is imported when a path is checked.

::

    s3.py    S3Store: Amazon S3, and stores with its protocol
"""
