"""The scheduler: does what is due when it is due. Any number of them share the users without electing anyone.

``drain`` finds and leases what is due, ``acts`` does it, ``worker`` lets arq say each second that it is time.
"""
