//! What chaos runs have found in the gateway, each as small as it could be made.
